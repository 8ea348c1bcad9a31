"""TFRecord files and the examples in them, without TensorFlow, whose import takes seconds.

The format is TensorFlow's: a record is its length (8 bytes), a checksum of that (4), the content
and a checksum of that (4); here a content is a `tf.train.Example`, a protocol buffer.
"""

from __future__ import annotations

import functools
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

HEADER = 12  # Bytes before a record's content.
FOOTER = 4  # Bytes after it.


def read(file: pathlib.Path, count: int) -> Iterator[bytes]:
  """Yields the contents of the first records, each after its checksums were verified.

  Args:
    file: a TFRecord file, not compressed.
    count: how many records.

  Raises:
    ValueError: if the file is altered or truncated.
  """
  with file.open('rb') as stream:
    for _ in range(count):
      header = stream.read(HEADER)
      if len(header) < HEADER:
        raise ValueError('it ends too early')
      if _checksum(header[:8]) != header[8:]:
        raise ValueError("the checksum of a record's length is wrong")
      (size,) = struct.unpack('<Q', header[:8])
      content, footer = stream.read(size), stream.read(FOOTER)
      if len(content) < size or len(footer) < FOOTER:
        raise ValueError('it ends too early')
      if _checksum(content) != footer:
        raise ValueError("a record's checksum is wrong")
      yield content


def features(content: bytes) -> Any:
  """The features of a `tf.train.Example` by name, with TensorFlow's attributes.

  Each has one of `bytes_list`, `float_list` and `int64_list`, with its `value`s.

  Args:
    content: a record's.

  Raises:
    google.protobuf.message.DecodeError: if it is not an example.
  """
  return _example().FromString(content).features.feature


def _checksum(data: bytes) -> bytes:
  """Returns the CRC-32C, rotated and shifted as in TFRecord files."""
  crc = google_crc32c.value(data)
  return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@functools.cache
def _example() -> Any:
  """Returns the class of `tf.train.Example`, in its own pool: TensorFlow may define it too."""
  field = descriptor_pb2.FieldDescriptorProto
  file = descriptor_pb2.FileDescriptorProto(name='example', package='example', syntax='proto3')

  def message(name: str, *fields: tuple[str, str, bool]) -> descriptor_pb2.DescriptorProto:
    made = file.message_type.add(name=name)
    for number, (key, kind, repeated) in enumerate(fields, 1):
      label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
      what = {'type': field.Type.Value(f'TYPE_{kind}')} if kind.isupper() else {}
      if not what:
        what = {'type': field.TYPE_MESSAGE, 'type_name': f'.example.{kind}'}
      made.field.add(name=key, number=number, label=label, **what)
    return made

  message('BytesList', ('value', 'BYTES', True))
  message('FloatList', ('value', 'FLOAT', True))
  message('Int64List', ('value', 'INT64', True))
  message(
    'Feature',
    ('bytes_list', 'BytesList', False),
    ('float_list', 'FloatList', False),
    ('int64_list', 'Int64List', False),
  )
  entry = message('FeatureEntry', ('key', 'STRING', False), ('value', 'Feature', False))
  entry.options.map_entry = True
  holder = message('Features', ('feature', 'Features.FeatureEntry', True))
  holder.nested_type.append(entry)  # A map's entry type is nested in the message that has the map.
  file.message_type.remove(entry)
  message('Example', ('features', 'Features', False))
  pool = descriptor_pool.DescriptorPool()
  pool.AddSerializedFile(file.SerializeToString())
  return message_factory.GetMessageClass(pool.FindMessageTypeByName('example.Example'))
