"""Every image in a request or a response, whatever the provider (see ``find_images``)."""

from .find import find_images
from .refusals import provider_refusals
from .replace import replace_images
from .site import ImageSite, ProviderRefusal, Replacement, SiteKind

__all__ = [
    "ImageSite",
    "ProviderRefusal",
    "Replacement",
    "SiteKind",
    "find_images",
    "provider_refusals",
    "replace_images",
]
