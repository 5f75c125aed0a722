/* Functions of every shape that C symbol tables and DWARF know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct node {
    struct node *next;
    char text[24];
};

static inline __attribute__((always_inline)) struct node *new_node(const char *text)
{
    struct node *n = malloc(sizeof *n);
    if (!n)
        abort();
    strncpy(n->text, text, sizeof n->text - 1);
    n->text[sizeof n->text - 1] = 0;
    return n;
}

static inline __attribute__((always_inline)) void push(struct node **list, const char *text)
{
    struct node *n = new_node(text);
    n->next = *list;
    *list = n;
}

__attribute__((noinline)) static int length(const struct node *list)
{
    int count = 0;
    while (list) {
        count++;
        list = list->next;
    }
    return count;
}

__attribute__((noinline)) int public_name(int value)
{
    struct node *list = NULL;
    for (int i = 0; i < value; i++) {
        char text[16];
        snprintf(text, sizeof text, "%d", i);
        push(&list, text);
    }
    int result = length(list);
    while (list) {
        struct node *next = list->next;
        free(list);
        list = next;
    }
    return result;
}

int __private_alias(int value) __attribute__((alias("public_name")));
int weak_alias(int value) __attribute__((weak, alias("public_name")));

__attribute__((noinline, cold)) static void unlikely(const char *why)
{
    fprintf(stderr, "unlikely: %s\n", why);
    exit(3);
}

int main(int argc, char **argv)
{
    if (argc > 5)
        unlikely(argv[5]);
    printf("%p %p\n", (void *)public_name, (void *)main);
    fflush(stdout);
    int total = public_name(argc + 3) + __private_alias(argc) + weak_alias(1);
    char byte;
    if (argc > 1 && read(0, &byte, 1) < 0)
        return 2;
    return total == 0;
}
