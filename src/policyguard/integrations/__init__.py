"""Where images meet apps: one extractor (``extract``), one screening engine (``screen``), and what stands on
them for HTTP clients and LangChain. Nothing here is imported by ``import policyguard``."""
