"""Every image in a request or a response, whatever the provider (see ``find_images``)."""

from policyguard.integrations.extract.own import made_images, opened_addresses
from policyguard.integrations.extract.refusals import provider_refusals
from policyguard.integrations.extract.replace import replace_images
from policyguard.integrations.extract.site import ImageSite, ProviderRefusal, Replacement, SiteKind
from policyguard.integrations.extract.walk import find_images

__all__ = [
    "ImageSite",
    "ProviderRefusal",
    "Replacement",
    "SiteKind",
    "find_images",
    "made_images",
    "opened_addresses",
    "provider_refusals",
    "replace_images",
]
