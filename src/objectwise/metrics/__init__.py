"""Pure functions of tensors: labels and predictions in, a typed result out."""
