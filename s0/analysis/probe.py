"""Does the model know, after reading the prompt, whether it will solve the problem? A linear probe per layer.

PCA to 64 components and logistic regression, fit on the training folds alone, 5-fold stratified cross-validation, area
under the ROC curve; from the recurrent state after the prompt and from the residual stream at its last token.
Paper: probing analysis (0.93 against 0.90).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s0.state.families import Layout
from s0.state.gates import run_prompt, state_of
from s0.state.initial import InitialState

N_COMPONENTS = 64
N_FOLDS = 5


def prompt_features(
    model: Any, layout: Layout, prompts: Sequence[Sequence[int]], state: InitialState | None = None
) -> dict[str, dict[int, NDArray[np.float32]]]:
    """ "recurrent": layer -> [prompts, state size], "residual": layer -> [prompts, hidden size] (the layer's output at the
    last prompt token), fp32; for the recurrent layers only, so that the two are compared at the same depth."""
    model.eval()
    recurrent: dict[int, list[NDArray[np.float32]]] = {i: [] for i in layout.layers}
    residual: dict[int, list[NDArray[np.float32]]] = {i: [] for i in layout.layers}
    for prompt in prompts:
        out, cache, _ = run_prompt(model, layout, prompt, state, output_hidden_states=True)
        for i in layout.layers:
            recurrent[i].append(state_of(cache, i).numpy().ravel())
            residual[i].append(out.hidden_states[i + 1][0, -1].float().cpu().numpy())
    return {
        "recurrent": {i: np.stack(v) for i, v in recurrent.items()},
        "residual": {i: np.stack(v) for i, v in residual.items()},
    }


def probe_auc(features: NDArray[Any], solved: Sequence[bool], seed: int = 0) -> tuple[float, float]:
    """Mean and ddof-1 std over folds of the held-out AUC; `features` [problems, d], one label per problem.

    Everything that is fit (mean, PCA, scale, weights) sees the training folds only. NaN where a class has fewer members
    than folds. Deterministic for one `seed`, which shuffles the folds.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = np.asarray(features, dtype=np.float64), np.asarray(solved, dtype=bool)
    if len(x) != len(y):
        raise ValueError(f"probe_auc: {len(x)} feature rows and {len(y)} labels; give one label per problem")
    if min(int(y.sum()), int((~y).sum())) < N_FOLDS:
        return math.nan, math.nan
    scores = []
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(x, y):
        # a constant feature matrix has no components to find; it predicts nothing
        if not np.ptp(x[train], axis=0).any():
            scores.append(0.5)
            continue
        n = min(N_COMPONENTS, len(train) - 1, x.shape[1])
        probe = make_pipeline(
            PCA(n, svd_solver="full"), StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed)
        )
        probe.fit(x[train], y[train])
        scores.append(float(roc_auc_score(y[test], probe.decision_function(x[test]))))
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


def probe(
    model: Any,
    layout: Layout,
    prompts: Sequence[Sequence[int]],
    solved: Sequence[bool],
    state: InitialState | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC per layer from both sources, as plain JSON:

    recurrent, residual   {layer: {"auc", "std"}} (null where there is no answer)
    n_problems, n_solved  size of the data; best_recurrent, best_residual: the largest AUC over layers, which is
                          optimistic by the choice of the layer
    """
    features = prompt_features(model, layout, prompts, state)
    values: dict[str, Any] = {"n_problems": len(solved), "n_solved": int(sum(solved))}
    for source, layers in features.items():
        scores = {}
        for i, x in layers.items():
            auc, std = probe_auc(x, solved, seed)
            scores[str(i)] = {"auc": None, "std": None} if math.isnan(auc) else {"auc": auc, "std": std}
        values[source] = scores
        known = [s["auc"] for s in scores.values() if s["auc"] is not None]
        values[f"best_{source}"] = max(known) if known else None
    return values
