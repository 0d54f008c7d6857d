/** What a person can act on; its message goes to the page as it is. Anything else is a bug of the page. */
export class Unreadable extends Error {}
