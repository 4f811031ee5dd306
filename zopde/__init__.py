"""zopde: neural correctors for PDE solvers that cannot be differentiated.

Everything public is here; `zopde.<room>` holds the rest. Heavy rooms load on first use, so
that the command line answers quickly.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

__version__ = version("zopde")

_ROOM_OF = {
    "InputError": "errors",
    "Failure": "errors",
    "SolverError": "errors",
    "Grid": "grid",
    "Oracle": "protocols",
    "Objective": "protocols",
    "ask_shared": "protocols",
    "ReferenceSolver": "protocols",
    "Scenario": "protocols",
    "Seeded": "protocols",
    "Solver": "protocols",
    "Window": "protocols",
    "find_solvers": "plugins",
    "load_solver": "plugins",
    "Estimate": "zo",
    "ExecutorOracle": "zo",
    "SelfCheck": "zo",
    "WeightOracle": "zo",
    "WorkerPool": "zo",
    "cge": "zo",
    "LayerMasks": "sparsity",
    "LayerRatios": "sparsity",
    "RandomMasks": "sparsity",
    "Scores": "sparsity",
    "grasp_scores": "sparsity",
    "layer_ratios": "sparsity",
    "magnitude_scores": "sparsity",
    "random_scores": "sparsity",
    "zo_grasp_scores": "sparsity",
    "relative_mu": "zo",
    "rge": "zo",
    "selfcheck": "zo",
    "AmortisedPullback": "interface",
    "ColouredPullback": "interface",
    "DensePullback": "interface",
    "InterfaceSolver": "interface",
    "PullbackByVariable": "interface",
    "RandomPullback": "interface",
    "measure_radius": "interface",
    "Apart": "hybrid",
    "CorrectedSolver": "hybrid",
    "Dropping": "hybrid",
    "InjectAfter": "hybrid",
    "InjectBefore": "hybrid",
    "InjectForcing": "hybrid",
    "Injection": "hybrid",
    "OneAtATime": "hybrid",
    "Retrying": "hybrid",
    "Store": "hybrid",
    "Stored": "hybrid",
    "UnrolledObjective": "hybrid",
    "downsample": "hybrid",
    "rollout": "hybrid",
    "rollout_error": "hybrid",
    "Certificate": "smoothing",
    "Smooth": "smoothing",
    "certified_accuracy": "smoothing",
    "CifarResNet": "nets",
    "ConvCorrector": "nets",
    "DnCNN": "nets",
    "Normalised": "nets",
    "ResidualCorrector": "nets",
    "SmallCNN": "nets",
    "ImageData": "data",
    "Images": "data",
    "Trajectories": "data",
    "load_images": "data",
    "load_trajectories": "data",
    "save_trajectories": "data",
    "simulate": "data",
    "load_config": "recipes",
    "SolverCheck": "recipes",
    "check_solver": "recipes",
    "load_corrector": "recipes",
    "run_correction": "recipes",
    "CertifyConfig": "recipes.certification",
    "run_certification": "recipes.certification",
    "attack_certificates": "recipes.certification",
    "load_classification": "recipes.classification",
    "load_classifier": "recipes.classification",
    "run_classification": "recipes.classification",
    "load_defence": "recipes.defence",
    "load_defended": "recipes.defence",
    "run_defence": "recipes.defence",
}

__all__ = ["__version__", *_ROOM_OF]  # noqa: PLE0604 - names listed once, above

if TYPE_CHECKING:
    from zopde.data import (
        ImageData,
        Images,
        Trajectories,
        load_images,
        load_trajectories,
        save_trajectories,
        simulate,
    )
    from zopde.errors import Failure, InputError, SolverError
    from zopde.grid import Grid
    from zopde.hybrid import (
        Apart,
        CorrectedSolver,
        Dropping,
        InjectAfter,
        InjectBefore,
        InjectForcing,
        Injection,
        OneAtATime,
        Retrying,
        Store,
        Stored,
        UnrolledObjective,
        downsample,
        rollout,
        rollout_error,
    )
    from zopde.interface import (
        AmortisedPullback,
        ColouredPullback,
        DensePullback,
        InterfaceSolver,
        PullbackByVariable,
        RandomPullback,
        measure_radius,
    )
    from zopde.nets import (
        CifarResNet,
        ConvCorrector,
        DnCNN,
        Normalised,
        ResidualCorrector,
        SmallCNN,
    )
    from zopde.plugins import find_solvers, load_solver
    from zopde.protocols import (
        Objective,
        Oracle,
        ReferenceSolver,
        Scenario,
        Seeded,
        Solver,
        Window,
        ask_shared,
    )
    from zopde.recipes import (
        SolverCheck,
        check_solver,
        load_config,
        load_corrector,
        run_correction,
    )
    from zopde.recipes.certification import (
        CertifyConfig,
        attack_certificates,
        run_certification,
    )
    from zopde.recipes.classification import (
        load_classification,
        load_classifier,
        run_classification,
    )
    from zopde.recipes.defence import load_defence, load_defended, run_defence
    from zopde.smoothing import Certificate, Smooth, certified_accuracy
    from zopde.sparsity import (
        LayerMasks,
        LayerRatios,
        RandomMasks,
        Scores,
        grasp_scores,
        layer_ratios,
        magnitude_scores,
        random_scores,
        zo_grasp_scores,
    )
    from zopde.zo import (
        Estimate,
        ExecutorOracle,
        SelfCheck,
        WeightOracle,
        WorkerPool,
        cge,
        relative_mu,
        rge,
        selfcheck,
    )


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'zopde' has no attribute {name!r}")
    value = getattr(import_module(f"zopde.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value
