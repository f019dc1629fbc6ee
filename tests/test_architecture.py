"""Imports point downward, type-only ones included; the public names are listed here."""

from __future__ import annotations

import ast
import importlib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import zpyro

pytestmark = pytest.mark.fast

PACKAGE = Path(zpyro.__file__).parent
LAYERS = (
    ("errors", "version"),
    ("settings",),
    ("io",),
    ("nn",),
    ("likelihoods",),
    ("datasets",),
    ("distributed",),
    ("models",),
    ("objectives",),
    ("evaluation",),
    ("training",),
    ("analysis",),
)
"""Entries of zpyro/, lowest layer first; each imports from its own layer and lower ones only."""
LEVEL = {entry: level for level, layer in enumerate(LAYERS) for entry in layer}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("zpyro", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str) -> set[str]:
    """The modules of zpyro that a source imports anywhere: in functions and for types too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found & MODULES.keys()


GRAPH = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def upward(graph: dict[str, set[str]]) -> list[str]:
    """The imports that point upward, in words."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if name != "zpyro" and level(other) > level(name)
    ]


def level(module: str) -> int:
    """The layer of a module; that of ``zpyro`` itself is the highest."""
    _, _, inner = module.partition(".")
    return LEVEL[inner.partition(".")[0]] if inner else len(LAYERS)


def test_imports_point_downward() -> None:
    assert upward(GRAPH) == []


def test_an_upward_import_is_found() -> None:
    source = "if TYPE_CHECKING:\n    from zpyro.training import config"
    assert imports(source) == {"zpyro.training.config"}
    assert upward({"zpyro.nn.layers": imports(source)}) != []


def test_no_circular_imports() -> None:
    # A package's __init__ imports its modules, which are written without it.
    inner = {
        name: {other for other in others if MODULES[other].stem != "__init__"}
        for name, others in GRAPH.items()
    }
    list(TopologicalSorter(inner).static_order())


def test_every_entry_has_a_layer() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name[0] not in "._"} - {"py"}
    assert entries - {"__init__", "__pycache__"} == LEVEL.keys()
    assert len(LEVEL) <= 14


PUBLIC_NAMES = {
    "zpyro": """
        Decoded FIVO Filter Forecast Imputation LoadedRun MultiSampleELBO ObjectiveTerms Posterior
        SequenceModel SequenceTerms UserError ZForcing ZForcingELBO __version__ analysis datasets
        decode distributed evaluate evaluation fit forecast impute interpolate io iwae likelihoods
        load load_run load_state models nn objectives posterior reconstruct schedules
        sequence_terms settings smc training
    """,
    "zpyro.errors": """
        UserError
    """,
    "zpyro.settings": """
        Field Limits build describe fields_of flatten literal parse_value read_toml setting
        to_toml unknown_key
    """,
    "zpyro.io": """
        Registry cache_folder checksum locked replace_file replace_folder translate_os_errors
    """,
    "zpyro.nn": """
        Cell ConditionalLayerNormLSTM CounterNoise Dropout GaussianMLP HiddenLayer LatentLSTM MLP
        NoiseSource PRECISIONS Path RECURRENCES Recurrence State TiedLinear evaluation_mode
        gaussian_kl gaussian_log_density in_blocks lstm_states lstm_step
        orthogonal_recurrent_weights resolve_precision run_backward run_lstm
    """,
    "zpyro.likelihoods": """
        Bernoulli Categorical Gaussian GaussianMixture LIKELIHOODS Likelihood LogisticMixture NADE
        StudentT build register
    """,
    "zpyro.datasets": """
        Batch Corpus DATASETS Dataset DatasetEntry LinearPrediction Normalization Sample Sequences
        SeriesSample Vocabulary collate describe entry from_arrays from_dataframe from_dataset load
        load_all names register
    """,
    "zpyro.distributed": """
        BatchShard ProcessGroup RayCluster SINGLE_PROCESS full_batch init_distributed
        launched_by_torchrun named_noise seed_everything
    """,
    "zpyro.models": """
        AuxiliaryCosts BoundModel DMM MODELS ModelConfig PosteriorPath Program RNN SRNN STORN
        SequenceModel SmoothingModel StepwiseModel VRNN ZForcing config_class from_reference
        model_config model_inputs register
    """,
    "zpyro.objectives": """
        Auxiliary FIVO KL LogLikelihood MultiSampleELBO ObjectiveModule ObjectiveTerms Reverse
        Schedule SequenceTerms SiteValues TERMS Term TracePair ZForcingELBO register schedules
        sequence_terms
    """,
    "zpyro.evaluation": """
        Backtest Evaluation Filter FilterEvaluation FilterStep ForecastScores Forecaster
        FrameBound History ImportanceEvaluation LinearAutoregression OnBatch SeasonalNaive
        StatsForecast backtest check_can_filter check_finite crps energy_score evaluate interval
        interval_coverage interval_width iwae largest_per_frame mase naive_error named_terms
        perplexity score_forecasts smc
    """,
    "zpyro.training": """
        Callback Checkpoint Config DataSpec FitResult GuideSource JointOptim LOGGERS LineLogger
        MLflowLogger NullLogger ObjectiveConfig Outcome Preset ProgressLogger Run SequenceTask
        StepTerms TensorBoardLogger TrackerLogger TrainConfig TrainState Trainer TrainingTask
        WandbLogger attach_guide build_likelihood build_model build_objective choose_device fit
        fit_to_data load load_state logger_for open_run read_preset resolve
    """,
    "zpyro.analysis": """
        ComparisonResult ComparisonSpec Decoded Forecast Imputation Interpolation LoadedRun
        LocalExecutor Posterior RayExecutor Report Resources Scoring SequenceView Summary VARIANTS
        Variant cite compare decode find_variants forecast impute interpolate load_run load_split
        markdown_table new_figure plot_comparison plot_curves plot_frames plot_images
        plot_side_by_side plot_sounds plot_spectrogram posterior reconstruct sample save_figure
        view_sequence write_report
    """,
}
"""The ``__all__`` of zpyro and its entries; list changes in CHANGELOG.md."""


def test_public_names() -> None:
    entries = {f"zpyro.{entry}" for entry in LEVEL.keys() - {"version"}}
    assert PUBLIC_NAMES.keys() == {"zpyro", *entries}
    for name, expected in PUBLIC_NAMES.items():
        module = importlib.import_module(name)
        assert sorted(module.__all__) == expected.split(), name
        assert all(hasattr(module, each) for each in module.__all__), name
