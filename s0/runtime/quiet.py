"""transformers' notices kept off a library user's screen: fallbacks to its reference kernels, load bars, renamed arguments."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the context transformers shows errors only. Whoever asked it for more (TRANSFORMERS_VERBOSITY=info) gets it."""
    from transformers.utils import logging  # start-up: transformers

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if level < logging.WARNING:
        yield
        return
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
