"""The list of what the paper holds: each item, the experiments whose records it reads, and its builder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from s0.report.paper import comparisons, curves, inside, mechanism, method_graph, per_seed, settings
from s0.report.paper.context import Built, Context


@dataclass(frozen=True)
class Item:
    """`experiments` are folders of records, `published` names of published CSV files; both are inputs of the hash.
    `configs` says that the item reads the configuration files."""

    name: str
    build: Callable[[Context], Built]
    experiments: tuple[str, ...] = ()
    published: tuple[str, ...] = ("summary",)
    configs: bool = False


_TABLE1, _TABLE2 = ("table1_main",), ("table2_matched_lora",)
_LORA = ("summary", "parameters", "humaneval_lora_per_seed")
_DOMAINS = ("gsm8k_per_seed", "math500_per_seed")

ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        Item("table1_main", comparisons.table1, _TABLE1),
        Item("table2_matched_lora", comparisons.table2, _TABLE2, _LORA),
        Item("table3_offset", comparisons.table3, ("table3_offset",)),
        Item("table4_hyperparameters", settings.table4, (), ("hyperparameters",), configs=True),
        Item("table5_layers", comparisons.table5, ("table5_layers",), ("layer_ablation",)),
        Item("table6", per_seed.table6, _TABLE1 + _TABLE2, _LORA),
        Item("table7", per_seed.table7, _TABLE1, ("falcon_per_seed",)),
        Item("table8", per_seed.table8, _TABLE2, _LORA),
        Item("table9_pass_at_k", per_seed.pass_at_k, ("table9_pass_at_k",), ("humaneval_pass_at_k",)),
        Item("fig1", mechanism.fig1, (*_TABLE1, "fig4_divergence"), (*_LORA, "divergence")),
        Item("fig2", method_graph.fig2, (), ()),
        Item("fig3a_scaling", curves.fig3a, ("fig3a_scaling",), ("scaling",)),
        Item("fig3b_alpha_falcon", curves.fig3b, ("fig3b_alpha_falcon",), ("mechanism",)),
        Item("alpha_sweep_qwen", curves.alpha_sweep_qwen, ("alpha_sweep_qwen",), ("mechanism",)),
        Item("data_efficiency", curves.efficiency, ("data_efficiency",), ("data_efficiency",)),
        Item("cross_domain", curves.cross_domain, ("cross_domain",), ("summary", *_DOMAINS, "spider_alpha_sweep")),
        Item("prefix_control", comparisons.prefix_control, ("prefix_control",)),
        Item("fig4_divergence", mechanism.fig4, ("fig4_divergence", *_TABLE1), ("divergence",)),
        Item("persistence", inside.persistence, ("persistence",), ("mechanism",)),
        Item("probe", inside.probe, ("probe",), ("mechanism",)),
        Item("alpha_prediction", inside.alpha_prediction, ("alpha_prediction", "alpha_sweep_qwen", "fig3b_alpha_falcon"), ()),
        Item("p_values", settings.p_values, (), (*_LORA, "p_values", *_DOMAINS)),
    )
}  # fmt: skip
