"""The allow-list: which globals of a PyTorch pickle mean something here, and the tensor claims they make.

A claim is what the file says of a tensor: storage, element type, offset, sizes, strides. Nothing in it is believed
before `torch_tensors.check_claim` has held it against the storage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from loftr2flax import dtypes
from loftr2flax.formats.pickle_values import PLAIN_BUILDERS, Builder, Malformed, Opaque

_ALIASES = {
    "half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32", "long": "int64",
    "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32",
}  # fmt: skip
_UNREAD = [
    *("complex32", "qint8", "quint8", "qint32", "quint4x2", "quint2x4", "float4_e2m1fn_x2"),
    *("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8)),
]
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexFloat": "complex64", "ComplexDouble": "complex128",
    "QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TorchDtype:
    """``torch.float32`` and its kin; ``name`` may be one that no leaf can have (``complex32``)."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageType:
    """``torch.FloatStorage`` and its kin; ``dtype`` is "" for bytes without a type."""

    dtype: str


@dataclass(frozen=True, slots=True)
class KnownGlobal:
    """A global of torch that only names something: a tensor class, a quantization scheme."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage that the pickle points to.

    Attributes:
      key: its name in the file.
      dtype: element type, "" for bytes without a type.
      start: first byte of this view in the storage (legacy files only, 0 otherwise).
      nbytes: bytes of this view.
    """

    key: str
    dtype: str
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorClaim:
    """What a pickle says of a tensor; offset, sizes and strides count elements and are unchecked.

    ``refused`` says why the tensor is no plain array, or is "". ``flags`` names what is still to be done to the
    stored numbers: "conj", "neg".
    """

    storage: StorageRef | None
    dtype: str
    offset: object = 0
    shape: object = ()
    stride: object = ()
    flags: tuple[str, ...] = ()
    refused: str = ""


Args = tuple[object, ...]


def _rebuild(args: Args, least: int, most: int) -> Args:
    if not least <= len(args) <= most:
        raise Malformed(f"a tensor is to be made of {len(args)} arguments, {least} to {most} are known")
    return args


def _with_flags(claim: TensorClaim, metadata: object) -> TensorClaim:
    """The claim with its conjugate and negative bits; other metadata would change the tensor in ways unknown."""
    if not metadata:
        return claim
    if not isinstance(metadata, dict) or not metadata.keys() <= {"conj", "neg"}:
        return replace(claim, refused="tensor with unknown metadata")
    return replace(claim, flags=tuple(flag for flag in ("conj", "neg") if metadata.get(flag)))


def _rebuild_tensor(args: Args) -> TensorClaim:
    storage, offset, shape, stride = _rebuild(args, 4, 4)
    if not isinstance(storage, StorageRef):
        raise Malformed("a tensor is to be made without a storage")
    return TensorClaim(storage, storage.dtype or "uint8", offset, shape, stride)


def _rebuild_tensor_v2(args: Args) -> TensorClaim:
    _rebuild(args, 6, 7)
    return _with_flags(_rebuild_tensor(args[:4]), args[6] if len(args) == 7 else None)


def _rebuild_tensor_v3(args: Args) -> TensorClaim:
    _rebuild(args, 7, 8)
    dtype = args[6]
    if not isinstance(dtype, TorchDtype):
        raise Malformed("a tensor is to be made without an element type")
    claim = replace(_rebuild_tensor(args[:4]), dtype=dtype.name)
    return _with_flags(claim, args[7] if len(args) == 8 else None)


def _rebuild_parameter(args: Args) -> TensorClaim:
    _rebuild(args, 1, 4)
    if not isinstance(args[0], TensorClaim):
        raise Malformed("a parameter is to be made of something else than a tensor")
    return args[0]


def _rebuild_from_type(args: Args) -> object:
    function, _, inner = _rebuild(args, 4, 4)[:3]
    if not isinstance(function, Builder) or function.name not in TENSOR_BUILDERS or not isinstance(inner, tuple):
        raise Malformed("a tensor subclass is to be made by something else than torch's tensor builders")
    if function.name == "torch._tensor._rebuild_from_type_v2":
        raise Malformed("a tensor subclass is to be made of a tensor subclass")
    return function.call(inner)


def _like(value: object, refused: str, shape: object = None) -> TensorClaim:
    """A refused claim that takes type and, unless given, shape from an inner tensor where there is one."""
    inner = value if isinstance(value, TensorClaim) else TensorClaim(None, "uint8")
    return TensorClaim(None, inner.dtype, 0, inner.shape if shape is None else shape, (), (), refused)


def _sparse(args: Args) -> TensorClaim:
    data = args[1] if len(args) == 2 else None
    if not isinstance(data, tuple) or len(data) < 3:
        raise Malformed("a sparse tensor is to be made of something else than indices, values and size")
    compressed = len(data) == 4 and isinstance(data[2], TensorClaim)
    return _like(data[2 if compressed else 1], "sparse tensor", data[3 if compressed else 2])


def _meta(args: Args) -> TensorClaim:
    dtype, shape = _rebuild(args, 4, 4)[:2]
    return TensorClaim(
        None, dtype.name if isinstance(dtype, TorchDtype) else "uint8", 0, shape, (), (), "tensor on the meta device"
    )


def _wrapper(args: Args) -> TensorClaim:
    dtype, shape = _rebuild(args, 8, 8)[1:3]
    return TensorClaim(
        None, dtype.name if isinstance(dtype, TorchDtype) else "uint8", 0, shape, (), (), f"wrapper of class {args[0]}"
    )


def _quantized(args: Args) -> TensorClaim:
    storage, _, shape = _rebuild(args, 7, 7)[:3]
    dtype = storage.dtype if isinstance(storage, StorageRef) else "qint8"
    return TensorClaim(None, dtype, 0, shape, (), (), "quantized tensor")


def _nested(args: Args) -> TensorClaim:
    return _like(_rebuild(args, 4, 4)[0], "nested tensor", ())


def _from_cpu(args: Args) -> TensorClaim:
    """A tensor of a device without storages (XLA), written as a tensor on the CPU and the type it had."""
    inner, dtype = _rebuild(args, 4, 4)[:2]
    if isinstance(inner, TensorClaim) and isinstance(dtype, TorchDtype) and inner.dtype == dtype.name:
        return inner
    return _like(inner, "device tensor stored as another type")


def _from_numpy(args: Args) -> TensorClaim:
    dtype = _rebuild(args, 4, 4)[1]
    return TensorClaim(
        None, dtype.name if isinstance(dtype, TorchDtype) else "uint8", refused="device tensor stored as a numpy array"
    )


def _uninitialized(args: Args) -> TensorClaim:
    return TensorClaim(None, "float32", refused="uninitialized parameter")


def _size(args: Args) -> tuple[object, ...]:
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        return tuple(args[0])
    if not args:
        return ()
    raise Malformed("a size is to be made of something else than numbers")


def _device(args: Args) -> KnownGlobal:
    return KnownGlobal("torch.device")


def _layout(args: Args) -> KnownGlobal:
    return KnownGlobal("torch.layout")


_TENSOR_CALLS: dict[str, Callable[[Args], object]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch.nn.parameter.Parameter": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_wrapper_subclass": _wrapper,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_cpu,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
    "torch.nn.parameter.UninitializedParameter": _uninitialized,
    "torch.nn.parameter.UninitializedBuffer": _uninitialized,
}
TENSOR_BUILDERS = {name: Builder(name, call) for name, call in _TENSOR_CALLS.items()}
"""What torch's own functions for unpickling tensors become here: each makes a `TensorClaim`."""

_OTHER_CALLS: dict[str, Callable[[Args], object]] = {
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
}
_KNOWN = [
    *("torch.Tensor", "torch.nn.parameter.Buffer"),
    *(f"torch.per_{extent}" for extent in ("tensor_affine", "channel_affine", "channel_affine_float_qparams")),
    *(f"torch.per_{extent}_symmetric" for extent in ("tensor", "channel")),
    *(
        f"torch.{layout}"
        for layout in ("strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc")
    ),
]
_UNTYPED = ("UntypedStorage", "_UntypedStorage")

_GLOBALS: dict[str, object] = {
    **TENSOR_BUILDERS,
    "torch.tensor._rebuild_from_type_v2": TENSOR_BUILDERS["torch._tensor._rebuild_from_type_v2"],
    "torch.nn.Parameter": TENSOR_BUILDERS["torch.nn.parameter.Parameter"],
    **{name: Builder(name, call) for name, call in _OTHER_CALLS.items()},
    **{name: KnownGlobal(name) for name in _KNOWN},
    **{f"torch.{name}": TorchDtype(name) for name in (*dtypes.NAMES, *_UNREAD)},
    **{f"torch.{alias}": TorchDtype(name) for alias, name in _ALIASES.items()},
    **{
        f"{module}.{kind}Storage": StorageType(dtype)
        for module in ("torch", "torch.cuda", "torch.storage")
        for kind, dtype in _STORAGES.items()
    },
    **{f"{module}.{name}": StorageType("") for module in ("torch", "torch.storage") for name in _UNTYPED},
}
"""Every global of torch that is known here, by its full name."""


def storage_itemsize(dtype: str) -> int:
    """Bytes of one element of a storage, as its length counts them; 1 for bytes without a type."""
    return dtypes.itemsize(dtype) if dtype in dtypes.NAMES else {"qint32": 4}.get(dtype, 1)


class GlobalFinder:
    """Answers a pickle's globals from the allow-list, and keeps the others' names in order of first appearance."""

    def __init__(self) -> None:
        self.foreign: list[str] = []

    def __call__(self, module: str, name: str) -> object:
        """What ``module.name`` stands for."""
        full_name = f"{module}.{name}"
        known = PLAIN_BUILDERS.get((module, name)) or _GLOBALS.get(full_name)
        if known is None:
            self.foreign.append(full_name)
            return Opaque(module, name)
        return known


class StorageTable:
    """The storages that a pickle points to, by key; answers its persistent ids."""

    def __init__(self) -> None:
        self.storages: dict[str, StorageRef] = {}
        """Each whole storage, by its key."""

    def __call__(self, persistent_id: object) -> object:
        """The storage, or the view of one, that a persistent id points to."""
        if not isinstance(persistent_id, tuple) or not persistent_id:
            raise Malformed("the persistent id is not a tuple")
        kind = _text(persistent_id[0])
        if kind == "module" and len(persistent_id) == 4:  # legacy: a class with its source, which nobody reads
            return persistent_id[1]
        if kind != "storage" or len(persistent_id) not in (5, 6):
            raise Malformed("the persistent id names no storage")
        type_, key, _, count = persistent_id[1:5]
        key = _text(key)
        if not isinstance(type_, StorageType) or key is None or type(count) is not int or not 0 <= count < 1 << 62:
            raise Malformed("the persistent id of a storage is malformed")
        whole = StorageRef(key, type_.dtype, 0, count * storage_itemsize(type_.dtype))
        known = self.storages.setdefault(key, whole)
        if known != whole:
            raise Malformed(f"storage {key!r} is claimed with two types or sizes")
        return known if len(persistent_id) == 5 or persistent_id[5] is None else _view(known, persistent_id[5])


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    return value if isinstance(value, str) else None


def _view(whole: StorageRef, view: object) -> StorageRef:
    """The part of a storage that legacy files call a view: its key, its offset and its size in elements."""
    if not isinstance(view, tuple) or len(view) != 3:
        raise Malformed("the view of a storage is malformed")
    _, offset, size = view
    if type(offset) is not int or type(size) is not int or offset < 0 or size < 0:
        raise Malformed("the view of a storage is malformed")
    width = storage_itemsize(whole.dtype)
    if (offset + size) * width > whole.nbytes:
        raise Malformed(f"a view of storage {whole.key!r} reaches past its end")
    return StorageRef(whole.key, whole.dtype, offset * width, size * width)
