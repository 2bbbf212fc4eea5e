"""What a person can do with a direction: take it out of the model, or watch it where the model is served."""
