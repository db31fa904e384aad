"""Whether synthetic lesions help a network that is trained with them: designs, runs, effects."""
