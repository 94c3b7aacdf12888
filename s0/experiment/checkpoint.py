"""The model of an experiment: identified from its files before anything is loaded, loaded once, on first need.

A run whose results are all stored never loads the weights. Paths: `embedded:NAME` (shipped with the package), a local
checkpoint folder, or a hub id (resolved to a local snapshot by huggingface_hub).
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s0.config.schema import ModelConfig
from s0.data import digest
from s0.errors import ArchitectureError, ConfigError, DataError
from s0.paths import EMBEDDED_MODELS
from s0.runtime.chat import prompt_ids
from s0.runtime.environment import versions
from s0.storage import keys
from s0.storage.files import write_json

if TYPE_CHECKING:
    from s0.state.families import Layout

WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


def resolve_path(config: ModelConfig) -> Path:
    """Local folder of the checkpoint. Raises ConfigError (no such embedded model) or DataError (not found, offline)."""
    path = str(config.path)
    if path.startswith("embedded:"):
        name = path.removeprefix("embedded:")
        folder = EMBEDDED_MODELS / name
        if not (folder / "config.json").exists():
            known = sorted(p.parent.name for p in EMBEDDED_MODELS.glob("*/config.json"))
            raise ConfigError(f"model.path={path!r}: no such embedded model; choices: {', '.join(known)}")
        return folder
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / "config.json").exists():
            raise DataError(
                f"model.path={path!r}: the folder holds no config.json; give a transformers checkpoint folder"
            )
        return local
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise DataError(
            f"model.path={path!r}: no such folder; give a checkpoint folder or a hub id like Qwen/Qwen3.5-4B"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=config.revision, ignore_patterns=["*.gguf", "*.onnx"]))
    except Exception as error:
        raise DataError(
            f"model.path={path!r}: not a local folder and the hub download failed ({type(error).__name__}); download the "
            f"checkpoint where there is a network (hf download {path}) and give its folder as model.path=DIR"
        ) from error


def _hash_files(files: list[Path], cache: Path | None) -> str:
    """SHA-256 over names and contents. Large files are remembered by (path, size, mtime) in `cache`."""
    known: dict[str, str] = {}
    if cache and cache.exists():
        known = json.loads(cache.read_text())
    total = hashlib.sha256()
    changed = False
    for f in sorted(files):
        stat = f.stat()
        key = f"{f.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in known:
            h = hashlib.sha256()
            with open(f, "rb") as handle:
                while chunk := handle.read(1 << 22):
                    h.update(chunk)
            known[key] = h.hexdigest()
            changed = True
        total.update(f"{f.name}:{known[key]}\n".encode())
    if cache and changed:
        write_json(cache, known)
    return total.hexdigest()


class Checkpoint:
    """The model under study. `key` identifies its computations; `model`, `tokenizer`, `layout` load on first use."""

    def __init__(self, config: ModelConfig, cache_dir: Path | None = None):
        self.config = config
        self.path = resolve_path(config)
        self.name = config.name or self.path.name
        code = list(self.path.glob("*.py")) if config.trust_remote_code else []
        weights = [f for pattern in WEIGHTS for f in self.path.glob(pattern)]
        if not weights:
            raise DataError(f"model.path={config.path!r}: no weights ({', '.join(WEIGHTS)}) in {self.path}")
        text = [
            f
            for f in self.path.iterdir()
            if f.is_file() and ("token" in f.name or "template" in f.name or "vocab" in f.name or "merges" in f.name)
        ]
        cache = cache_dir / "file_hashes.json" if cache_dir else None
        settings = [f for f in (self.path / "config.json", self.path / "generation_config.json") if f.exists()]
        self.weights_sha256 = _hash_files(weights + settings + code, cache)
        self.tokenizer_sha256 = _hash_files(text, cache)
        self.device = self._device()
        self.dtype = self._dtype_name()
        self.key = keys.model(
            self.weights_sha256,
            self.tokenizer_sha256,
            self.dtype,
            self.device_name,
            {k: getattr(config, k) for k in ("attn_implementation", "device_map", "tp_plan", "trust_remote_code")},
            versions(),
        )

    def _device(self) -> str:
        wanted = self.config.device
        import torch

        if wanted == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if wanted.startswith("cuda"):
            count = torch.cuda.device_count()
            index = int(wanted.partition(":")[2] or 0)
            if index >= count:
                raise ConfigError(f"model.device={wanted}: {count} CUDA device(s) found; use model.device=auto or cpu")
        return wanted

    def _dtype_name(self) -> str:
        wanted = self.config.dtype
        if wanted != "auto":
            return wanted
        if self.device == "cpu":
            return "float32"
        settings = json.loads((self.path / "config.json").read_text())
        inner = settings.get("text_config", {})
        name = settings.get("dtype") or settings.get("torch_dtype") or inner.get("dtype") or inner.get("torch_dtype")
        return str(name or "bfloat16")

    @functools.cached_property
    def device_name(self) -> str:
        import platform

        import torch

        if self.device.startswith("cuda"):
            return torch.cuda.get_device_name(self.device)
        return f"cpu {platform.machine()}"

    @functools.cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.path, trust_remote_code=self.config.trust_remote_code)

    @functools.cached_property
    def model(self) -> Any:
        return load_model(self.path, self.config, self.device, self.dtype)

    @functools.cached_property
    def layout(self) -> Layout:
        """Raises ArchitectureError for models without supported recurrent layers."""
        # start-up: torch
        from s0.state.families import describe

        return describe(self.model)

    def info(self) -> dict[str, Any]:
        """What a record says about the model (from files only; the loaded parts are added by `loaded_info`)."""
        return {
            "name": self.name,
            "path": str(self.config.path),
            "revision": self.config.revision,
            "weights_sha256": self.weights_sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "dtype": self.dtype,
        }

    def loaded_info(self) -> dict[str, Any]:
        """Family, architecture and sizes; reads them from the loaded model."""
        info: dict[str, Any] = {"n_parameters": sum(p.numel() for p in self.model.parameters())}
        try:
            layout = self.layout
            info |= {
                "family": layout.family.name,
                "architecture": layout.architecture,
                "recurrent_layers": list(layout.layers),
                "state_shape": list(layout.shapes[layout.layers[0]]),
                "state_parameters": layout.n_parameters(),
            }
        except ArchitectureError:
            info |= {"family": type(self.model).__name__, "architecture": "transformer", "state_parameters": 0}
        return info

    def prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """See `s0.runtime.chat.prompt_ids`."""
        return prompt_ids(self.tokenizer, messages)

    @property
    def chat_template(self) -> str:
        template = self.tokenizer.chat_template
        return digest(template) if template else "none"


def load_model(path: Path, config: ModelConfig, device: str, dtype: str) -> Any:
    """A frozen causal LM in eval mode. Raises DataError naming the folder when transformers cannot load it."""
    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    transformers.utils.logging.disable_progress_bar()
    if device == "cpu":
        # on a CPU the torch kernels are the only ones: saying that CUDA kernels are missing helps nobody
        transformers.utils.logging.set_verbosity_error()
    kwargs: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "trust_remote_code": config.trust_remote_code,
    }
    for key in ("attn_implementation", "device_map", "tp_plan"):
        if getattr(config, key):
            kwargs[key] = getattr(config, key)
    try:
        settings = AutoConfig.from_pretrained(path, trust_remote_code=kwargs["trust_remote_code"])
        architectures = getattr(settings, "architectures", None) or [""]
        cls: Any = AutoModelForCausalLM
        if architectures[0].endswith("ForConditionalGeneration") and hasattr(transformers, architectures[0]):
            cls = getattr(transformers, architectures[0])  # text inside a multimodal wrapper: keep its weight names
        model = cls.from_pretrained(path, **kwargs)
    except (OSError, ValueError, KeyError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"model.path={config.path!r}: transformers cannot load it ({first})") from error
    if not (config.device_map or config.tp_plan):
        model = model.to(device)
    model.eval()
    for p in model.parameters():
        p.requires_grad_(False)
    return model
