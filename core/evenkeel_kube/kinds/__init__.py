"""The project's own API types: the CRDs are generated from them, manifests validated by them.

`schema` holds the vocabulary (bounded strings, quantities, rules), `inferencejob` and
`serverprofile` one kind each. Names in these types are those users write: camelCase aliases.
"""
