"""What families that compute on this machine share: libraries, batches, and the libraries' errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

from pg_embed import heap
from pg_embed.errors import (
    InputRejected,
    MissingExtra,
    ModelError,
    ModelMisconfigured,
    ModelUnavailable,
    PgEmbedError,
)

CPU_BATCH, ACCELERATOR_BATCH = 32, 256  # texts a forward pass
CPU_BATCH_TOKENS, ACCELERATOR_BATCH_TOKENS = 16_384, 131_072  # of a pass, at most
THREAD_TOKENS, FEWEST_TOKENS = 1_024, 2_048  # more for each thread take memory, and are no faster
CONCURRENCY = 2  # a query beside a bulk batch
CHARACTERS_PER_TOKEN = 32  # a longer text is cut before it is tokenised, if what is left fills max_tokens
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc")
COMPUTING = (RuntimeError, IndexError, ValueError, MemoryError)  # what libraries raise while they compute
INPUT_ERRORS = ("size of tensor", "expanded size", "index out of range", "shapes cannot be multiplied")

NumberType = Literal["float32", "float16", "bfloat16", "auto"]


class OutOfMemory(ModelUnavailable):
    """a pass that has no room; one of fewer texts may have it"""


def libraries(*modules: str, extra: str = "local") -> list[Any]:
    """The modules, quiet ones; a missing one is an error that names the extra."""
    try:
        found = [import_module(module) for module in modules]
        transformers = import_module("transformers")
    except ImportError as exc:
        raise MissingExtra(
            f"a package for local models is missing: {exc}", hint=f"pip install 'pg-embed[{extra}]'"
        ) from exc
    transformers.utils.logging.disable_progress_bar()
    return found


@contextmanager
def quiet() -> Iterator[None]:
    """Without the library's report of weights, which the caller checks."""
    [logging] = libraries("transformers.utils.logging")
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def number_type(torch: Any, told: NumberType | None, device: str | None, accelerated: NumberType) -> Any:
    """The type to load weights in: as told; else float32 on a CPU, `accelerated` elsewhere."""
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    name = told or ("float32" if on_cpu else accelerated)
    return name if name == "auto" else getattr(torch, name)


def cpu_tokens(batch_size: int | None) -> int:
    """Tokens of a pass on a CPU: what its threads need to be busy; the most where a `batch_size` was told."""
    import torch

    if batch_size is not None:
        return CPU_BATCH_TOKENS
    threads: int = torch.get_num_threads()
    return min(max(THREAD_TOKENS * threads, FEWEST_TOKENS), CPU_BATCH_TOKENS)


def is_out_of_memory(exc: Exception) -> bool:
    """Whether an accelerator or this machine had no memory left; torch tells of the latter in words only."""
    if isinstance(exc, MemoryError) or type(exc).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(exc).lower() for words in OUT_OF_MEMORY)


def translated(exc: Exception) -> ModelError:
    """What a library raised while it computed, as one of our errors."""
    text = str(exc)
    if is_out_of_memory(exc):
        return OutOfMemory(f"out of memory: {text}", hint="set a smaller batch_size or max_tokens")
    if isinstance(exc, IndexError) or any(words in text for words in INPUT_ERRORS):
        return InputRejected(f"the model cannot read a text: {text}")
    return ModelUnavailable(f"the model failed: {text}")


@contextmanager
def loading(checkpoint: str) -> Iterator[None]:
    """Whatever the libraries raise meanwhile, the checkpoint cannot be used as it is."""
    try:
        yield
    except PgEmbedError:
        raise
    except Exception as exc:
        raise unloadable(checkpoint, exc) from exc


@contextmanager
def trying() -> Iterator[None]:
    """A first call, which fails now rather than at the first row, and warms up."""
    try:
        yield
    except InputRejected as exc:
        raise ModelMisconfigured(f"the checkpoint cannot be used: {exc}", hint=exc.hint) from exc


def unloadable(checkpoint: str, exc: Exception) -> ModelError:
    """What a library raised while it loaded a checkpoint, as one of our errors."""
    if is_out_of_memory(exc):
        return ModelUnavailable(f"no memory to load {checkpoint}: {exc}")
    return ModelMisconfigured(f"checkpoint {checkpoint} cannot be loaded: {exc}")


def release_memory() -> None:
    """Give memory back, an accelerator's too, after a model was let go, or a pass had no room."""
    import torch

    heap.trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
