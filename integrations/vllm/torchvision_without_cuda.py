"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

vLLM imports torchvision for the picture transforms of the Qwen-VL families, which are pure torch. The only
thing that stops the import is that the build's compiled operators cannot be loaded, and two of them are
looked up by name. Declaring these two is enough; they cannot be called, and nothing here calls them.
Installed by ``setup_cpu.sh``; costs nothing until torchvision is imported.
"""

import sys


class _Declare:
    kept = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                library = torch.library.Library("torchvision", "FRAGMENT")
                library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _Declare.kept = library  # what is not kept is undone


sys.meta_path.insert(0, _Declare())
