"""What an encoder is worth: accuracies, geometry, corruptions, episodes on novel classes.

No method is named here, and no model is trained on what it is judged by.
"""
