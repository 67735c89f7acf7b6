"""People for clients: sources, splits, tier-honest crops, augmentation, heatmap codec, batches."""
