"""The reverse process: from noise to a sample, by any schedule and prediction. One small file per method."""
