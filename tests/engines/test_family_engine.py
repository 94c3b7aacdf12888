"""The batched decode loop and plain `generate` answer alike on every family."""

from __future__ import annotations

import pytest
import torch

from s0.engines.base import Request
from s0.engines.hf import HFEngine
from s0.engines.naive import NaiveEngine
from s0.errors import ConfigError
from s0.state.families import describe
from s0.state.initial import InitialState
from s0.state.random_models import MODELS, build


class _Tokenizer:
    """Token ids as text: the models have no vocabulary."""

    eos_token_id = None

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(map(str, ids))


#: their sparse indexer layers keep more than keys and values
REFUSED = ("qwen4_exp", "glm5_next")


@pytest.mark.parametrize("name", [n for n in MODELS if n.split(" ")[0] not in REFUSED])
def test_rows_of_different_states_decode_as_one_by_one(name):
    model = build(name)
    model.generation_config.eos_token_id = None
    layout = describe(model)
    states = {key: InitialState.random(layout, 4.0, seed=n) for n, key in enumerate("ab")}
    g = torch.Generator().manual_seed(0)
    requests = [
        Request(tuple(torch.randint(3, 90, (n,), generator=g).tolist()), 8, state=state)
        for n, state in ((1, "a"), (5, "b"), (9, None), (9, "a"), (17, "b"))
    ]
    found = HFEngine(max_slots=4).all(model, _Tokenizer(), requests, states)
    expected = NaiveEngine().all(model, _Tokenizer(), requests, states)
    assert [r.token_ids for r in found] == [r.token_ids for r in expected]


@pytest.mark.parametrize("name", [n for n in MODELS if n.split(" ")[0] in REFUSED])
def test_layers_the_slot_cache_does_not_keep_are_refused(name):
    with pytest.raises(ConfigError, match="engine=naive"):
        HFEngine().all(build(name), _Tokenizer(), [Request((1, 2), 2)])
