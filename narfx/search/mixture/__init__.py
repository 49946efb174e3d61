"""What the strategies that learn by gradients through a mixture share: weights, loop, budget and memory."""
