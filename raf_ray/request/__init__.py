"""From a config to what it asks for, resolved once: who trains at which sizes, on whose people, with which parts."""
