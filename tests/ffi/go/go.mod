module helixmq.test/ffi

go 1.24
