/* What all examples share: no call goes unchecked. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "helixmq.h"

/* Ends the program if a call failed, and shows why. Note that `err` is a pointer to the error
 * pointer: C may evaluate arguments in any order, so `must(hmq_x(&e), e)` could pass on the `e`
 * from before the call. For calls that have no error object, hand in NULL. */
static inline hmq_status must(hmq_status status, hmq_error **err)
{
    if (status >= 0)
        return status; /* HMQ_OK, or a normal outcome such as HMQ_NO_DATA */
    fprintf(stderr, "%s %s\n", hmq_status_name(status), err ? hmq_error_json(*err, NULL) : "");
    exit(1);
}

/* For everything else that has to be so: calls of the system, and what the example promises. */
static inline void must_be(int truth, const char *what)
{
    if (truth)
        return;
    fprintf(stderr, "%s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

#endif
