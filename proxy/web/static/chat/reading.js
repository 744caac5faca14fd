// The place in the list of messages that the user reads: its end, which is kept in view while the list
// grows, or a place further up, which does not move.

const NEAR = 60; // pixels from the end: scrolling down to here follows the end again
const FAR = 160; // pixels from the end, from which the button to the end is shown

export class Reading {
  #ending = true;
  #pressed = false; // a control in the list: it stays under the pointer, so that the click meets it
  #top = 0;
  #height = 0;

  /** `button` scrolls to the end. */
  constructor(list, button) {
    Object.assign(this, { list, button });
    list.addEventListener("scroll", () => this.#scrolled());
    list.addEventListener("contentvisibilityautostatechange", () => this.#grown());
    list.addEventListener("pointerdown", ({ target }) => {
      this.#pressed = target.closest("summary, button, a") !== null;
    });
    for (const name of ["pointerup", "pointercancel"]) {
      window.addEventListener(name, () => {
        this.#pressed = false;
      });
    }
    button.addEventListener("click", () => {
      this.end();
      list.focus({ preventScroll: true });
    });
    new MutationObserver(() => this.#grown()).observe(list, { childList: true, subtree: true, characterData: true });
    new ResizeObserver(() => this.#grown()).observe(list); // the form below it may have grown
  }

  /** Go to the end and stay there. */
  end() {
    this.#ending = true;
    this.#grown();
  }

  /** Whether the user scrolled up and an element is in view. */
  at(element) {
    const [box, view] = [element.getBoundingClientRect(), this.list.getBoundingClientRect()];
    return !this.#ending && box.bottom > view.top && box.top < view.bottom;
  }

  /** Scroll an element to where another was: `top` in the window. */
  hold(element, top) {
    this.#ending = false;
    this.list.scrollTop += element.getBoundingClientRect().top - top;
    this.#scrolled();
  }

  get #left() {
    const { scrollHeight, scrollTop, clientHeight } = this.list;
    return scrollHeight - scrollTop - clientHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight } = this.list;
    const left = this.#left;
    // A message gets its real height when it comes into view: the list has moved, not its reader.
    if (this.#ending && scrollHeight !== this.#height) return this.#grown();
    // Even a little way up counts, so that slow scrolling leaves the end.
    if (left < 2 || (left < NEAR && scrollTop > this.#top)) this.#ending = true;
    else if (scrollTop < this.#top) this.#ending = false;
    this.#top = scrollTop;
    this.#offer();
  }

  #grown() {
    if (this.#ending && !this.#pressed) this.list.scrollTop = this.list.scrollHeight;
    this.#height = this.list.scrollHeight;
    this.#offer();
  }

  #offer() {
    this.button.hidden = this.#ending || this.#left < FAR;
  }
}
