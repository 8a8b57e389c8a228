"""Train your own guard: recaption, SFT, assess, GRPO. Each stage runs as ``python -m
policyguard.train.STAGE``.

Importing this package loads nothing heavy; a stage loads torch and TRL when it starts (extra ``train``).
"""
