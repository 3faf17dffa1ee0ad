"""What was learned, as an adapter file, a PEFT folder or a merged model."""
