#!/usr/bin/env bash
# certificates.sh DIRECTORY: certificates for tests, made once: an authority (ca.pem), a server of
# 127.0.0.1 and localhost (server.pem, server.key), a client (client.pem, client.key, and client-locked.key
# with the password "open sesame"), and an authority that nobody trusts (other-ca.pem).
set -eu
dir=$1
[ ! -f "$dir/done" ] || exit 0
mkdir -p "$dir"
cd "$dir"

authority() { # authority NAME
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=$1" -keyout "$1.key" -out "$1.pem" 2>/dev/null
}
signed() { # signed NAME EXTENSIONS
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -out "$1.pem" \
        -extfile <(printf '%s' "$2") 2>/dev/null
}
authority ca
authority other-ca
signed server 'subjectAltName=IP:127.0.0.1,DNS:localhost'
signed client 'extendedKeyUsage=clientAuth'
openssl pkcs8 -topk8 -in client.key -passout 'pass:open sesame' -out client-locked.key
touch done
