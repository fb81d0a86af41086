"""
Payload codecs: what values look like in the store. Compress them, encrypt them, keep large ones elsewhere.

A codec turns bytes into bytes; a client or worker has one, or several that are applied in order. They cover payloads,
the values and errors of journal entries, outcomes, checkpoints and events. Not covered, so that intents can be found
and shown: ids, queues, types, labels, idempotency keys, names of steps, class names of errors, the note of a cancel.
"""

from redurable.codecs.aes import AesGcm
from redurable.codecs.base import Codec, Vault, load_codec, vault_of
from redurable.codecs.offload import BlobStore, Directory, Offload
from redurable.codecs.zstd import Zstd

__all__ = ["AesGcm", "BlobStore", "Codec", "Directory", "Offload", "Vault", "Zstd", "load_codec", "vault_of"]
