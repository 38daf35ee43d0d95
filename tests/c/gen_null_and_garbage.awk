# Reads the header, writes one C function per declared function that tries each of its pointer
# arguments with NULL and each of its handles with garbage. Included by null_and_garbage.c, which
# has the fixture and says what is expected.
#
# An argument may be NULL if its comment says so, or if it is a text or buffer with a length beside
# it: then NULL with a length is what must be refused.

/^ \* - `[a-z_]+`:/ {
    name = $3
    gsub(/[`:]/, "", name)
    comment[name] = $0
    last = name
    next
}
/^ \*   / { if (last != "") comment[last] = comment[last] $0; next }
/^ \*/ { last = ""; if (/\*\//) in_comment = 0; next }
/^\/\*/ { in_comment = 1 }
in_comment { if (/\*\//) in_comment = 0; next }
/^#/ || /^typedef/ || /^ *}/ { next }
/hmq_[a-z_]+\(/ { text = ""; open = 1 }
open { text = text " " $0 }
open && /\);/ { open = 0; declaration(text); delete comment }

function trim(text) {
    gsub(/^ +| +$/, "", text)
    return text
}

function is_handle(type) {
    return type ~ /^(const )?struct hmq_(hub|broker|pub|sub|msg|inbox|sink|error) \*$/
}

function is_function(type) {
    return type ~ /^hmq_[a-z]+_fn$/
}

# What is given for an argument that is not the bad one.
function usual(k,   object) {
    if (is_handle(type[k])) {
        object = type[k]
        gsub(/const |struct hmq_| \*/, "", object)
        return "fixture." object
    }
    if (is_function(type[k])) return type[k] == "hmq_drop_fn" ? "count_drop" : "stub_" substr(type[k], 5)
    if (type[k] ~ /\*$/) {
        if (type[k] ~ /\*\*$/) return "(void *)&out[" k "]"
        if (arg[k] == "user_data") return "NULL"
        if (type[k] ~ /^const char/) return "\"{}\""
        if (type[k] ~ /struct hmq_(record|event|settlement|receipt|broker_ops) /) {
            object = type[k]
            gsub(/const |struct hmq_| \*/, "", object)
            return "&fixture." object
        }
        if (type[k] ~ /^const void/) return "\"{}\""
        return "(void *)&out[" k "]"
    }
    if (arg[k] ~ /_len$/) return "2"
    if (arg[k] == "abi") return "HMQ_ABI"
    if (arg[k] == "cap") return "sizeof(out[0])"
    if (arg[k] == "bytes" || arg[k] == "count" || arg[k] == "max") return "1"
    if (arg[k] == "level") return "HMQ_LOG_INFO"
    if (arg[k] == "verdict") return "HMQ_REJECT"
    if (arg[k] == "role") return "HMQ_ROLE_TASK_QUEUE"
    return "0"
}

function has_length(k) {
    if (k >= n || type[k] ~ /\*\*$/) return 0
    return type[k + 1] == "size_t" && (arg[k + 1] == arg[k] "_len" || arg[k + 1] ~ /^(bytes|cap)$/)
}

# One call; argument `bad` is `value`, and `err` is NULL if `silent`.
function call(bad, value, silent,   text, k) {
    text = fn "("
    for (k = 1; k <= n; k++) {
        part = k == bad ? value : usual(k)
        if (silent && arg[k] == "err") part = "NULL"
        if (k == bad + 1 && bad > 0 && has_length(bad)) part = "1"
        text = text (k > 1 ? ", " : "") part
    }
    return text ")"
}

function outputs(bad,   text, k) {
    for (k = 1; k <= n; k++)
        if (k != bad && arg[k] != "err" && type[k] ~ /\*$/ && usual(k) ~ /&out/ && type[k] !~ /^void \*$|hmq_status \*$|uint64_t \*$/)
            text = text (type[k] ~ /int32_t \*$/ ? " WRITTEN32(" : " WRITTEN(") k ");"
    return text
}

function emit(bad, value, want,   silent, has_err, drops, k) {
    has_err = arg[n] == "err"
    drops = 0
    for (k = 1; k <= n; k++) if (type[k] == "hmq_drop_fn" && k != bad) drops = 1
    for (silent = 0; silent <= has_err; silent++) {
        printf "    BEFORE();\n"
        if (returns != "hmq_status") {
            printf "    (void)0; %s%s;\n", (returns == "void" ? "" : "(void)"), call(bad, value, silent)
            continue
        }
        printf "    EXPECT(%s, %s, \"%s: bad %s%s\");\n", call(bad, value, silent), want, fn, arg[bad], silent ? ", no err" : ""
        if (drops) printf "    DROPPED(\"%s: bad %s\");\n", fn, arg[bad]
        if (has_err && !silent) printf "    GAVE_ERROR(%d, \"%s: bad %s\");\n", n, fn, arg[bad]
        text = outputs(bad)
        if (text != "") printf "   %s\n", text
    }
}

function declaration(text,   k, parts, inner, object) {
    sub(/^ *HMQ_NODISCARD */, "", text)
    text = trim(text)
    match(text, /hmq_[a-z0-9_]+\(/)
    returns = trim(substr(text, 1, RSTART - 1))
    fn = substr(text, RSTART, RLENGTH - 1)
    inner = substr(text, RSTART + RLENGTH)
    sub(/\);.*$/, "", inner)
    n = inner == "void" ? 0 : split(inner, parts, ",")
    for (k = 1; k <= n; k++) {
        parts[k] = trim(parts[k])
        match(parts[k], /[a-z_]+$/)
        arg[k] = substr(parts[k], RSTART)
        type[k] = trim(substr(parts[k], 1, RSTART - 1))
    }
    printf "static void try_%s(void)\n{\n", fn
    for (k = 1; k <= n; k++) {
        if (is_handle(type[k])) {
            object = type[k]
            gsub(/const |struct hmq_| \*/, "", object)
            if (fn != "hmq_error_status") emit(k, "NULL", "HMQ_E_NULL")
            printf "    for (int g = 0; g < garbage_count; g++) {\n    if (garbage[g] == (void *)fixture.%s) continue;\n", object
            emit(k, "garbage[g]", "HMQ_E_HANDLE")
            print "    }"
        } else if (is_function(type[k]) || type[k] ~ /\*$/) {
            if (arg[k] == "err" || arg[k] == "user_data" || type[k] == "hmq_drop_fn") continue
            if (has_length(k)) emit(k, "NULL", "HMQ_E_NULL")
            else if (comment[arg[k]] !~ /may be NULL/) emit(k, "NULL", "HMQ_E_NULL")
        }
    }
    print "}\n"
    names[++total] = fn
}

END {
    print "static void (*const tries[])(void) = {"
    for (k = 1; k <= total; k++) printf "    try_%s,\n", names[k]
    print "};"
}
