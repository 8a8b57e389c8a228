"""For those who write policies: lint, diff, tests, the editor's schema."""
