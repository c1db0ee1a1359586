"""The reverse process: from noise to a sample, with any schedule and prediction. One small file per method."""
