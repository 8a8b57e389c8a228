"""The service: policies that are reloaded, verdicts over HTTP, and a page to try policies on.

``app.create_app`` is the ASGI application, ``app.serve`` runs it with uvicorn. Needs the extra ``server``.
"""
