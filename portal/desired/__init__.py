"""The directory `desired/`: manifests that go on counting as applied. Nothing is ever written into it."""
