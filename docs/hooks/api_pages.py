"""The reference of the Python API: the public names of ``zoo``, and the contracts that CONTRIBUTING.md names."""

from __future__ import annotations

import zoo

# Title: first parts of the modules whose public names stand there; what registers things comes last.
GROUPS = {
    "Recipes and networks": ("zoo.recipes", "zoo.core.config", "zoo.models", "zoo.hub.create_discriminator"),
    "Train": ("zoo.training",),
    "Generators": ("zoo.hub", "zoo.report"),
    "Evaluate and publish": ("zoo.evaluation", "zoo.metrics"),
    "Extend": (),
    "Errors": ("zoo.core.errors",),
}
EXTENSIONS = ("register_", "load_plugin")
CONTRACTS = {
    "Networks": (
        *("zoo.models.base.Generator", "zoo.models.base.Discriminator", "zoo.models.base.StyleGenerator"),
        *("zoo.core.config.NetworkConfig", "zoo.core.config.ImageSpec", "zoo.core.config.LatentSpec"),
    ),
    "Losses and penalties": (
        "zoo.losses.step_outputs.StepOutputs",
        "zoo.losses.adversarial.AdversarialLoss",
        "zoo.losses.penalties.Penalty",
        "zoo.losses.penalties.RunningMeans",
    ),
    "Metrics": (
        *("zoo.metrics.comparison.Comparison", "zoo.metrics.comparison.MetricOptions"),
        *("zoo.metrics.value.MetricValue", "zoo.metrics.alarms.Alarm"),
    ),
    "Sources of images": (
        *("zoo.data.sources.source.Source", "zoo.data.sources.source.SourceOptions"),
        *("zoo.data.sources.files.PathSource", "zoo.data.sources.volumes.VolumeSource"),
        *("zoo.data.sources.scans.ScanSource", "zoo.data.sources.scans.Scan"),
        *("zoo.data.folder_layout.Listing", "zoo.data.folder_layout.Problem"),
    ),
}


def group_names() -> dict[str, list[str]]:
    """Return the public names of ``zoo`` by the title under which they stand.

    Raises:
        ValueError: a name is of a package that no title has.
    """
    groups: dict[str, list[str]] = {title: [] for title in GROUPS}
    for name, module in sorted(zoo._MODULES.items()):
        groups[_find_group(name, module)].append(name)
    return groups


def _find_group(name: str, module: str) -> str:
    if name.startswith(EXTENSIONS):
        return "Extend"
    for title, packages in GROUPS.items():
        if module.startswith(packages):
            return title
    raise ValueError(f"zoo.{name} is of {module}, which no group of docs/hooks/api_pages.py has; add it to one")


def python_page() -> str:
    """Return the page of public names, in which mkdocstrings fills the ``:::`` blocks."""
    parts = ["# Python", "`import zoo` loads neither torch nor numpy; names are imported when they are first used."]
    for title, names in group_names().items():
        parts += [f"## {title}", *(f"::: zoo.{name}" for name in names)]
    return "\n\n".join(parts) + "\n"


def contract_page() -> str:
    """Return the page of contracts."""
    text = "What an architecture, loss, penalty, metric or source of images derives from or is given:"
    parts = ["# Contracts", f"{text} see [CONTRIBUTING.md](../../CONTRIBUTING.md)."]
    for title, names in CONTRACTS.items():
        parts += [f"## {title}", *(f"::: {name}" for name in names)]
    return "\n\n".join(parts) + "\n"
