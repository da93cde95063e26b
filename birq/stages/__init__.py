"""One thin file a stage: read the inputs, call, write the outputs. A key holds the imports of these files."""
