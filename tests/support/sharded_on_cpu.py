"""CPU processes as GPUs: ``accelerate launch --config_file train/accelerate/fsdp2.yaml THIS RECIPE``.

accelerate shares weights out between GPUs only, and quietly trains whole copies on CPUs. Told that these
processes have devices of their own, it does on CPUs what it does on GPUs, FSDP2 and DeepSpeed's ZeRO over
gloo included. DeepSpeed would first compile a kernel that reduces in shared memory; gloo does without.
"""

from __future__ import annotations

import os

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from policyguard.train.__main__ import main


def with_deepspeed() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed("gloo")


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        with_deepspeed()
    else:
        torch.distributed.init_process_group("gloo")
    PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
    main()
    torch.distributed.destroy_process_group()
