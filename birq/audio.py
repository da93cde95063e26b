"""Audio in: the one guarded import of torchaudio, reading files, resampling."""
