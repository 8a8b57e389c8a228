"""Guard models run in this process by Hugging Face transformers.

``TransformersBackend`` is the door; nothing heavy is imported before it loads a model.

- ``files``: find the model's files, refuse what must not be loaded, fingerprint the weights.
- ``loading``: weights, device, dtype; ``processors``: the processor, with or without torchvision.
- ``plan``: where in a prompt the rating and the category are read; ``reading``: what the logits say there.
- ``prefix``: the policy's KV prefix, computed once and shared by all images.
"""

from __future__ import annotations

from policyguard.backends.transformers.backend import TransformersBackend

__all__ = ["TransformersBackend"]
