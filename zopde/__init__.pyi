# What `zopde` offers, for its lazy loader and for type checkers: its rooms, then the names
# that are imported from `zopde` itself. The block lets mypy finish the rooms first, which are one
# circle for it otherwise.

import typing

if typing.TYPE_CHECKING:
    from . import blackbox as blackbox
    from . import check as check
    from . import data as data
    from . import hybrid as hybrid
    from . import interface as interface
    from . import nets as nets
    from . import oracle as oracle
    from . import smoothing as smoothing
    from . import sparsity as sparsity
    from . import tangent as tangent
    from . import training as training
    from . import zo as zo
    from .blackbox import BlackBox as BlackBox
    from .blackbox import Dropping as Dropping
    from .blackbox import OneAtATime as OneAtATime
    from .blackbox import Retrying as Retrying
    from .check import selfcheck as selfcheck
    from .contracts import Scenario as Scenario
    from .contracts import Solver as Solver
    from .contracts import Window as Window
    from .data import Trajectories as Trajectories
    from .data import load_images as load_images
    from .data import load_trajectories as load_trajectories
    from .data import save_trajectories as save_trajectories
    from .data import simulate as simulate
    from .errors import InputError as InputError
    from .errors import SolverError as SolverError
    from .grid import Grid as Grid
    from .hybrid import CorrectedSolver as CorrectedSolver
    from .hybrid import UnrolledObjective as UnrolledObjective
    from .hybrid import downsample as downsample
    from .hybrid import rollout as rollout
    from .hybrid import rollout_error as rollout_error
    from .interface import BankPullback as BankPullback
    from .interface import ColouredPullback as ColouredPullback
    from .interface import CorrectedPullback as CorrectedPullback
    from .interface import DensePullback as DensePullback
    from .interface import IdentityPullback as IdentityPullback
    from .interface import InterfaceSolver as InterfaceSolver
    from .interface import RandomPullback as RandomPullback
    from .interface import RegressedPullback as RegressedPullback
    from .mesh import Mesh as Mesh
    from .nets import ConvCorrector as ConvCorrector
    from .nets import GraphCorrector as GraphCorrector
    from .nets import Normalised as Normalised
    from .nets import ResidualCorrector as ResidualCorrector
    from .oracle import ExecutorOracle as ExecutorOracle
    from .oracle import WeightOracle as WeightOracle
    from .oracle import WorkerPool as WorkerPool
    from .plugins import load_solver as load_solver
    from .smoothing import Smooth as Smooth
    from .studies.certify import CertifyConfig as CertifyConfig
    from .studies.certify import run_certification as run_certification
    from .studies.classify import load_classification as load_classification
    from .studies.classify import load_classifier as load_classifier
    from .studies.classify import run_classification as run_classification
    from .studies.correct import load_config as load_config
    from .studies.correct import load_corrector as load_corrector
    from .studies.correct import run_correction as run_correction
    from .studies.correct.check import check_solver as check_solver
    from .studies.defend import load_defence as load_defence
    from .studies.defend import load_defended as load_defended
    from .studies.defend import run_defence as run_defence
    from .studies.report import draw_figures as draw_figures
    from .studies.report import write_report as write_report
    from .tangent import differentiable as differentiable
    from .zo import cge as cge
    from .zo import rge as rge

__version__: str
