"""The model a stage starts from and the folder it leaves behind.

A finished folder holds what ``save_pretrained`` writes for weights and configuration, and the tokenizer and
processor files of the model it came from, byte for byte, so that the guard, transformers and vLLM load it as
they load any other. LoRA weights are merged: the guard loads no adapters.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError, MissingExtraError, UsageError
from policyguard.train.recipe import Tune

__all__ = [
    "RUN",
    "WORK",
    "copy_processor",
    "empty_model",
    "finish",
    "is_complete",
    "is_vision",
    "load_weights",
    "loading_options",
    "lora",
    "model_folder",
    "processor_of",
    "restore",
    "select_trained",
    "share_reference",
    "weights_of_ranks",
]

WORK = "training"
"""Below the output folder: checkpoints, logs, the record of the run. The guard does not look into it."""
RUN = "run.json"
"""In it: which run the checkpoints belong to, and what later starts changed."""

_COPIED = (
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer*",
    "*preprocessor_config.json",
    "processor_config.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
)


def model_folder(model: str) -> Path:
    """The local folder of ``model``: a folder, a packaged model, or a hub snapshot. Raises ModelLoadError.

    Everything after this goes by the path: TRL builds the KL reference from the folder on disk.
    """
    from policyguard.backends.registry import resolve_model
    from policyguard.backends.transformers.files import complete, find

    return complete(find(resolve_model(model).location, name=model)).folder


def processor_of(folder: Path, *, max_pixels: int | None) -> Any:
    """The runtime's own processor for ``folder``, padding on the left."""
    transformers = _transformers()
    from policyguard.backends.transformers.loading import load_processor

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return load_processor(folder, config, name=str(folder), max_pixels=max_pixels)


def loading_options(tune: Tune, *, precision: str) -> dict[str, Any]:
    """How weights are loaded. Those that are trained are float32, also with bf16 arithmetic: in bf16 most
    updates of a small learning rate would round to nothing.
    """
    frozen_in_bf16 = precision == "bf16" and tune.mode == "lora"
    return {
        "dtype": "bfloat16" if frozen_in_bf16 else "float32",
        "use_safetensors": True,
        "local_files_only": True,
    }


def empty_model(folder: Path) -> Any:
    """The model in ``folder`` without memory for its weights: its modules, their names and sizes."""
    transformers = _transformers()
    import torch

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with _read_by_this_rank(), torch.device("meta"):  # ZeRO-3 would share out what is not there
        return transformers.AutoModelForImageTextToText.from_config(config, trust_remote_code=False)


def load_weights(folder: Path, tune: Tune, *, precision: str, whole_on: Any = None) -> Any:
    """The model in ``folder``; its ``name_or_path`` is the folder. Raises ConfigurationError.

    ``whole_on``: the device that this rank wants all of it on. Without it, a run that shares weights out has
    the first rank of a machine read them (FSDP), and the others build the model without memory for its
    weights; or each rank reads its share (ZeRO-3).
    """
    if whole_on is not None:
        with _read_by_this_rank():
            return load_weights(folder, tune, precision=precision).to(whole_on)
    transformers = _transformers()
    from transformers.integrations import is_fsdp_enabled
    from transformers.modeling_utils import is_local_dist_rank_0

    options = loading_options(tune, precision=precision)
    try:
        if is_fsdp_enabled() and not is_local_dist_rank_0():
            model = _unread(folder, options["dtype"])
        else:
            model = transformers.AutoModelForImageTextToText.from_pretrained(
                str(folder), trust_remote_code=False, **options
            )
    except UsageError:
        raise
    except Exception as error:
        raise ConfigurationError(f"model '{folder}' cannot be loaded: {error}") from error
    model.config.use_cache = False
    return model


def _unread(folder: Path, dtype: str) -> Any:
    """The model in ``folder`` but for its weights, which accelerate sends.

    In their place is memory that nobody has touched, and which the system therefore does not give out;
    ``from_pretrained`` would fill it with zeros. What is no weight, such as the frequencies of positions, is
    there.
    """
    transformers = _transformers()
    import torch
    from accelerate import init_empty_weights

    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        model = transformers.AutoModelForImageTextToText.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=False
        )
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            untouched = torch.empty(weight.shape, dtype=weight.dtype)
            setattr(module, name, torch.nn.Parameter(untouched, requires_grad=weight.requires_grad))
    model.tie_weights()
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    model.config.name_or_path = str(folder)
    return model


@contextmanager
def _read_by_this_rank() -> Iterator[None]:
    """Let ``from_pretrained`` read all weights although accelerate has been started to share them out: else
    it would leave zeros on all ranks but the first (FSDP), or shares of them on each (ZeRO-3).
    """
    from transformers.integrations import deepspeed

    name = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    setting = os.environ.pop(name, None)
    config = deepspeed._hf_deepspeed_config_weak_ref  # noqa: SLF001 - there is no getter
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config  # noqa: SLF001
        if setting is not None:
            os.environ[name] = setting


def share_reference(trainer: Any, base: Path, tune: Tune, *, precision: str) -> None:
    """Give all ranks their share of the KL reference, where FSDP has only the first read weights.

    accelerate does so for the model that is trained. TRL 1.16 shares the reference out as it is on each rank:
    zeros on all but the first, and so the KL term would pull to a model that is mostly zeros.
    """
    if not trainer.is_fsdp_enabled or trainer.ref_model is None:
        return
    from accelerate.utils.fsdp_utils import fsdp2_load_full_state_dict

    state: dict[str, Any] = {}
    if trainer.accelerator.is_main_process:
        state = load_weights(base, tune, precision=precision).state_dict()
    fsdp2_load_full_state_dict(trainer.accelerator, trainer.ref_model, state)


def weights_of_ranks(trainer: Any) -> list[str]:
    """The SHA-256 of the trained weights on each rank, which all must have the same; empty where they are
    shared out, or there is one rank.
    """
    import torch
    from accelerate.utils import DistributedType, gather_object

    accelerator = trainer.accelerator
    shared = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if accelerator.num_processes == 1 or shared:
        return []
    digest = hashlib.sha256()
    for weight in accelerator.unwrap_model(trainer.model).parameters():
        if weight.requires_grad:
            digest.update(weight.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return list(gather_object([digest.hexdigest()]))


def restore(trainer: Any, checkpoint: Path, tune: Tune) -> None:
    """Put the weights in ``checkpoint`` into the trainer's model, before it goes on from there.

    The trainer does so by the names of modules and passes over names it does not know. Those in a checkpoint
    of Qwen2.5-VL are of an older layout, which ``from_pretrained`` translates: nothing would be loaded. It
    does load adapters and sharded weights.
    """
    if tune.mode == "lora" or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return
    trainer.model.load_state_dict(load_weights(checkpoint, tune, precision="fp32").state_dict())


def select_trained(model: Any, tune: Tune) -> int:
    """Switch off gradients of what is not trained (full fine-tuning), and give the number of trained
    weights.
    """
    if tune.mode == "full" and tune.vision == "frozen":
        for name, weight in model.named_parameters():
            if is_vision(name):
                weight.requires_grad_(False)
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def lora(model: Any, tune: Tune) -> Any:
    """The ``LoraConfig`` for ``model``, or ``None`` for full fine-tuning.

    LlavaGuard measured LoRA far behind full fine-tuning on policy exceptions; where these matter, train
    fully.
    """
    if tune.mode == "full":
        return None
    import torch

    try:
        from peft import LoraConfig
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    head = model.get_output_embeddings()
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and (tune.vision == "trained" or not is_vision(name))
    ]
    return LoraConfig(
        r=tune.rank, lora_alpha=tune.alpha, lora_dropout=tune.dropout, target_modules=targets, bias="none"
    )


def finish(
    trainer: Any, base: Path, out: Path, *, precision: str, dialect: str | None, card: Callable[[], None]
) -> None:
    """Write the finished model into ``out``; config.json comes last, and without it nothing loads ``out``.

    ``card`` writes the model card, which comes before: a run that is killed in between is not finished yet.
    All ranks call it: where weights are sharded (FSDP, ZeRO-3), accelerate gathers them. LoRA weights are
    merged into the base in float32, as it lies on disk.
    """
    import torch

    accelerator = trainer.accelerator
    # DeepSpeed's engine gathers shares, not the model inside it; DDP's wrapper would only rename weights.
    state = accelerator.get_state_dict(
        trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    )
    if accelerator.is_main_process:
        model = accelerator.unwrap_model(trainer.model)
        if hasattr(model, "peft_config"):
            model = _merged(model, state, base)
            state = model.state_dict()
        elif trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            # A weight with two names has been gathered twice, and would be written twice.
            state = {name: value for name, value in state.items() if name not in model.all_tied_weights_keys}
        if dialect is not None:
            model.config.policyguard = {"dialect": dialect}
        model.config.use_cache = True
        if precision == "bf16":
            model.config.dtype = torch.bfloat16
            state = {
                name: value.to(torch.bfloat16) if value.is_floating_point() else value
                for name, value in state.items()
            }
        partial = out / WORK / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save_pretrained(partial, state_dict=state)
        copy_processor(base, partial)
        card()
        for file in sorted(partial.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(out / file.name)
        partial.rmdir()
    accelerator.wait_for_everyone()


def _merged(model: Any, state: dict[str, Any], base: Path) -> Any:
    """The base on disk with the adapter of ``model``, whose weights are in ``state``, merged into it."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    adapter = get_peft_model_state_dict(model, state_dict=state)
    plain = load_weights(base, Tune(mode="full"), precision="fp32", whole_on="cpu")
    whole = get_peft_model(plain, model.peft_config["default"])
    set_peft_model_state_dict(whole, adapter)
    return whole.merge_and_unload()


def copy_processor(base: Path, target: Path) -> None:
    """Copy tokenizer, processor and chat template from ``base``, unchanged."""
    for pattern in _COPIED:
        for file in sorted(base.glob(pattern)):
            shutil.copyfile(file, target / file.name)


def is_complete(out: Path) -> bool:
    """Whether ``out`` holds a finished model."""
    return (out / "config.json").is_file() and any(out.glob("*.safetensors"))


def is_vision(name: str) -> bool:
    """Whether the weight or module of this name belongs to the vision tower."""
    return any(part in ("visual", "vision_tower", "vision_model") for part in name.split("."))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "train") from None
    return transformers
