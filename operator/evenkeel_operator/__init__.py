"""The operator: reconciles InferenceJobs into pods."""
