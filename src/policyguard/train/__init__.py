"""Train your own guard: recaption, SFT, assess, GRPO; ``python -m policyguard.train RECIPE`` runs a stage.

Importing this package loads nothing heavy; a stage loads torch and TRL when it starts (extra ``train``).
"""
