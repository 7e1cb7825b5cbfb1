"""Settings that came later than studies that exist, and so are no part of what those say."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import SerializerFunctionWrapHandler, model_serializer

from reseed.records import Spec


class OptionalSpec(Spec):
    """Some settings are written, and so are part of digests, only where they are set."""

    optional: ClassVar[frozenset[str]] = frozenset({"random_weights"})

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if name not in self.optional or value != fields[name].default
        }
