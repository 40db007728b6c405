"""What a finished run gives out: the adapter, the merged model and its proof, published whole or not at all."""
