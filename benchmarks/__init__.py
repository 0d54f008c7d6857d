"""Programs that measure: `python -m benchmarks.NAME`. They are never tests; README.md here tells how and what."""
