"""The trainer: one loop, checkpoints, schedules, reports."""
