//! Structs over the boundary: each carries its size, so that programs of another version are
//! understood or told apart.

use crate::error::{Error, Kind, Result};

use super::broker_ops::hmq_broker_ops;
use super::text::null;
use super::types::{hmq_event, hmq_receipt, hmq_record, hmq_settlement};

/// No struct of any version is larger; beyond it a size is garbage.
const SIZE_MAX: usize = 4096;

/// A struct whose first field is its size as the caller's header knows it.
///
/// # Safety
/// `repr(C)`, the first field is the `u32` size, and all zero bytes behind it are a valid value.
pub(super) unsafe trait Struct: Copy {
    /// The name of the C type.
    const NAME: &'static str;
}

macro_rules! structs {
    ($($type:ident),*) => {$(
        // SAFETY: declared so in `types.rs` and `broker_ops.rs`: integers, pointers, optional functions.
        unsafe impl Struct for $type {
            const NAME: &'static str = stringify!($type);
        }
    )*};
}

structs!(hmq_record, hmq_receipt, hmq_event, hmq_settlement, hmq_broker_ops);

#[cold]
fn wrong_size<T: Struct>(size: usize) -> Error {
    let own = size_of::<T>();
    let text = format!("{}.size is {size}, this library knows {own}; start from HMQ_..._INIT", T::NAME);
    Error::new(Kind::Abi, text)
}

/// The size that the caller set, checked to hold at least what is known here.
///
/// # Safety
/// `this` is valid for a read of its first field.
#[inline]
unsafe fn size_of_given<T: Struct>(this: *const T) -> Result<usize> {
    // SAFETY: the first field is the size.
    let size = unsafe { this.cast::<u32>().read() } as usize;
    if size < size_of::<T>() || size > SIZE_MAX || size & (align_of::<T>() - 1) != 0 {
        return Err(wrong_size::<T>(size));
    }
    Ok(size)
}

/// What a newer program adds must be zero: this library would not act on it.
///
/// # Safety
/// `this` is valid for reads of `size` bytes.
#[inline]
unsafe fn check_tail<T: Struct>(this: *const T, size: usize) -> Result<()> {
    let known = size_of::<T>();
    if size == known {
        return Ok(());
    }
    // SAFETY: as promised by the caller.
    let tail = unsafe { std::slice::from_raw_parts(this.cast::<u8>().add(known), size - known) };
    if tail.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let text = format!("{} of a newer header uses fields that this library does not know", T::NAME);
    Err(Error::new(Kind::Abi, text))
}

/// A struct that goes in.
///
/// # Safety
/// `this` is NULL or valid for reads of the size in it.
#[inline]
pub(super) unsafe fn input<'a, T: Struct>(this: *const T, name: &str) -> Result<&'a T> {
    if this.is_null() {
        return Err(null(name));
    }
    // SAFETY: not NULL; the size was checked before more is read.
    unsafe {
        check_tail(this, size_of_given(this)?)?;
        Ok(&*this)
    }
}

/// Checks a struct that comes out, and may be NULL.
///
/// # Safety
/// `this` is NULL or valid for writes of the size in it.
#[inline]
pub(super) unsafe fn check_output<T: Struct>(this: *const T) -> Result<()> {
    if this.is_null() {
        return Ok(());
    }
    // SAFETY: not NULL.
    unsafe { size_of_given(this) }.map(drop)
}

/// Empties a struct that comes out, but for its size; one of a wrong size is left alone.
///
/// # Safety
/// `this` is NULL or valid for writes of the size in it.
#[inline]
pub(super) unsafe fn clear<T: Struct>(this: *mut T) {
    if this.is_null() {
        return;
    }
    // SAFETY: not NULL; so many bytes are the caller's, and zero is a valid value.
    unsafe {
        if let Ok(size) = size_of_given(this) {
            std::ptr::write_bytes(this.cast::<u8>().add(size_of::<u32>()), 0, size - size_of::<u32>());
        }
    }
}

/// An array of structs; the first one's size is the step.
#[derive(Clone, Copy)]
pub(super) struct Step<T> {
    first: *mut T,
    step: usize,
    count: usize,
}

impl<T: Struct> Step<T> {
    /// The array at `first`; NULL if `count` is 0.
    ///
    /// # Safety
    /// `first` is NULL or valid for `count` structs of the size in the first.
    pub(super) unsafe fn of(first: *mut T, count: usize, name: &str) -> Result<Self> {
        if count == 0 {
            return Ok(Self { first, step: size_of::<T>(), count });
        }
        if first.is_null() {
            return Err(null(name));
        }
        // SAFETY: not NULL, and there is a first one.
        let step = unsafe { size_of_given(first) }?;
        if count > isize::MAX as usize / step {
            return Err(Error::new(Kind::TooLarge, format!("{name}: {count} structs fit in no memory")));
        }
        Ok(Self { first, step, count })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Size of each struct.
    pub(super) fn size(&self) -> usize {
        self.step
    }

    /// The struct at `index`, which is below the count.
    #[inline]
    pub(super) fn at(&self, index: usize) -> *mut T {
        debug_assert!(index < self.count);
        self.first.wrapping_byte_add(index * self.step)
    }

    /// As [`Step::at`], checking what lies behind the known fields.
    ///
    /// # Safety
    /// The structs are valid for reads.
    #[inline]
    pub(super) unsafe fn checked<'a>(&self, index: usize) -> Result<&'a T> {
        let this = self.at(index);
        // SAFETY: `index` is within the array.
        unsafe {
            check_tail(this, self.step)?;
            Ok(&*this)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Newer {
        known: hmq_settlement,
        more: u64,
    }

    fn newer(more: u64) -> Newer {
        // SAFETY: zero is a valid settlement.
        let mut known: hmq_settlement = unsafe { std::mem::zeroed() };
        known.size = size_of::<Newer>() as u32;
        Newer { known, more }
    }

    fn check(given: &Newer) -> Result<()> {
        // SAFETY: the size in it is that of the whole.
        unsafe { input(std::ptr::from_ref(given).cast::<hmq_settlement>(), "s") }.map(drop)
    }

    #[test]
    fn newer_programs_are_understood_until_they_use_what_is_new() {
        assert!(check(&newer(0)).is_ok());
        assert_eq!(check(&newer(1)).unwrap_err().kind(), Kind::Abi);
        for size in [0, 4, 47, 49, 5000, u32::MAX] {
            let mut wrong = newer(0);
            wrong.known.size = size;
            assert_eq!(check(&wrong).unwrap_err().kind(), Kind::Abi, "{size}");
        }
    }

    #[test]
    fn arrays_step_by_the_first_size() {
        let mut array = [newer(0), newer(0), newer(0)];
        array[2].known.token = 7;
        // SAFETY: three structs of the size in the first.
        let step = unsafe { Step::of(array.as_mut_ptr().cast::<hmq_settlement>(), 3, "s") }.unwrap();
        // SAFETY: below the count.
        assert_eq!((unsafe { step.checked(2) }.unwrap().token, step.size()), (7, 56));
    }
}
