"""What strategies that learn by gradients through a mixture share: their weights, their loop, the budget, the memory."""
