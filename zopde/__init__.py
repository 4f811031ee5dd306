"""zopde: neural correctors for PDE solvers that cannot be differentiated.

Everything public is here; `zopde.<room>` holds the rest. Heavy rooms load on first use, so
that the command line answers quickly.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from zopde.errors import check_system

__version__ = version("zopde")

_ROOM_OF = {
    "InputError": "errors",
    "Failure": "errors",
    "SolverError": "errors",
    "Grid": "grid",
    "Oracle": "contracts",
    "Objective": "contracts",
    "ask_shared": "contracts",
    "ReferenceSolver": "contracts",
    "Scenario": "contracts",
    "Seeded": "contracts",
    "Solver": "contracts",
    "Window": "contracts",
    "find_solvers": "plugins",
    "load_solver": "plugins",
    "Estimate": "zo",
    "ExecutorOracle": "oracle",
    "SelfCheck": "check",
    "WeightOracle": "oracle",
    "WorkerPool": "oracle",
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
    "relative_mu": "oracle",
    "rge": "zo",
    "selfcheck": "check",
    "AmortisedPullback": "interface",
    "ColouredPullback": "interface",
    "DensePullback": "interface",
    "InterfaceSolver": "interface",
    "PullbackByVariable": "interface",
    "RandomPullback": "interface",
    "measure_radius": "interface",
    "Apart": "blackbox",
    "CorrectedSolver": "hybrid",
    "Dropping": "blackbox",
    "InjectAfter": "hybrid",
    "InjectBefore": "hybrid",
    "InjectForcing": "hybrid",
    "Injection": "hybrid",
    "OneAtATime": "blackbox",
    "Retrying": "blackbox",
    "Store": "blackbox",
    "Stored": "blackbox",
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
    "load_config": "studies.correct",
    "SolverCheck": "studies.correct.check",
    "check_solver": "studies.correct.check",
    "load_corrector": "studies.correct",
    "run_correction": "studies.correct",
    "CertifyConfig": "studies.certify",
    "run_certification": "studies.certify",
    "attack_certificates": "studies.certify",
    "load_classification": "studies.classify",
    "load_classifier": "studies.classify",
    "run_classification": "studies.classify",
    "load_defence": "studies.defend",
    "load_defended": "studies.defend",
    "run_defence": "studies.defend",
    "write_report": "studies.report",
}

__all__ = ["__version__", *_ROOM_OF]  # noqa: PLE0604 - names listed once, above

if TYPE_CHECKING:
    from zopde.blackbox import Apart, Dropping, OneAtATime, Retrying, Store, Stored
    from zopde.check import SelfCheck, selfcheck
    from zopde.contracts import (
        Objective,
        Oracle,
        ReferenceSolver,
        Scenario,
        Seeded,
        Solver,
        Window,
        ask_shared,
    )
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
        CorrectedSolver,
        InjectAfter,
        InjectBefore,
        InjectForcing,
        Injection,
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
    from zopde.oracle import ExecutorOracle, WeightOracle, WorkerPool, relative_mu
    from zopde.plugins import find_solvers, load_solver
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
    from zopde.studies.certify import CertifyConfig, attack_certificates, run_certification
    from zopde.studies.classify import load_classification, load_classifier, run_classification
    from zopde.studies.correct import load_config, load_corrector, run_correction
    from zopde.studies.correct.check import SolverCheck, check_solver
    from zopde.studies.defend import load_defence, load_defended, run_defence
    from zopde.studies.report import write_report
    from zopde.zo import Estimate, cge, rge


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'zopde' has no attribute {name!r}")
    check_system()
    value = getattr(import_module(f"zopde.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value
