"""The model: encoder, masks, quantizer, objectives, CTC. It knows no files and no params.yaml."""
