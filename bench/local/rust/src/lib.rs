//! async-channel and crossbeam-channel, with calls that C can make (rust.cpp).
use std::ffi::c_void;

type Item8 = [u64; 1];
type Item64 = [u64; 8];

macro_rules! calls {
    ($item:ty, $make:ident, $free:ident, $send:ident, $receive:ident, $channel:path, $tx:ty, $rx:ty,
     $do_send:ident, $do_receive:ident) => {
        #[no_mangle]
        pub extern "C" fn $make(capacity: usize) -> *mut c_void {
            let both: ($tx, $rx) = $channel(capacity);
            Box::into_raw(Box::new(both)) as *mut c_void
        }
        /// # Safety
        /// `both` is what the make call gave, once.
        #[no_mangle]
        pub unsafe extern "C" fn $free(both: *mut c_void) {
            drop(Box::from_raw(both as *mut ($tx, $rx)));
        }
        /// # Safety
        /// `both` as above, alive; `item` points to one.
        #[no_mangle]
        pub unsafe extern "C" fn $send(both: *mut c_void, item: *const $item) {
            let _ = (*(both as *mut ($tx, $rx))).0.$do_send(*item);
        }
        /// # Safety
        /// `both` as above, alive; `item` points to room for one.
        #[no_mangle]
        pub unsafe extern "C" fn $receive(both: *mut c_void, item: *mut $item) {
            if let Ok(value) = (*(both as *mut ($tx, $rx))).1.$do_receive() {
                *item = value;
            }
        }
    };
}

calls!(Item8, async_make8, async_free8, async_send8, async_receive8, async_channel::bounded,
    async_channel::Sender<Item8>, async_channel::Receiver<Item8>, send_blocking, recv_blocking);
calls!(Item64, async_make64, async_free64, async_send64, async_receive64, async_channel::bounded,
    async_channel::Sender<Item64>, async_channel::Receiver<Item64>, send_blocking, recv_blocking);
calls!(Item8, crossbeam_make8, crossbeam_free8, crossbeam_send8, crossbeam_receive8,
    crossbeam_channel::bounded, crossbeam_channel::Sender<Item8>,
    crossbeam_channel::Receiver<Item8>, send, recv);
calls!(Item64, crossbeam_make64, crossbeam_free64, crossbeam_send64, crossbeam_receive64,
    crossbeam_channel::bounded, crossbeam_channel::Sender<Item64>,
    crossbeam_channel::Receiver<Item64>, send, recv);
