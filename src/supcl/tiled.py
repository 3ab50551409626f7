def reduce(pairs, terms):
    raise NotImplementedError
